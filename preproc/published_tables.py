"""The regions of the published atlases: names, networks and places, in the order of their labels.

Shipped as `tables/*.tsv`: label numbers in both network orders, names, and the centre of each label in
MNI152NLin6Asym (mm). Sources: Schaefer 2018 (release 0.14.3 names, MIT), Tian 2020 (Melbourne Subcortex
Atlas).
"""

from importlib.resources import files

import pandas as pd

REGION_COLUMNS = ("index", "name", "structure", "hemisphere", "network7", "network17", "x", "y", "z")


def tian_table() -> pd.DataFrame:
    """Tian scale III: REGION_COLUMNS, 50 rows; the network of a subcortical region is "Subcortex"."""
    table = _read("tian-s3").sort_values("label", ignore_index=True)
    table["index"] = table["label"]
    table["structure"] = "subcortex"
    table["hemisphere"] = table["name"].str[-2].str.upper()  # HIP-head-m-rh
    table["network7"] = table["network17"] = "Subcortex"
    return table[list(REGION_COLUMNS)]


def schaefer_table(order: str = "17networks") -> pd.DataFrame:
    """Schaefer-400 in "17networks" or "7networks" order: REGION_COLUMNS and its label in either order."""
    table = _read("schaefer-400").sort_values(f"label_{order}", ignore_index=True)
    table["index"] = table[f"label_{order}"]
    table["name"] = table[f"name_{order}"]
    table["structure"] = "cortex"
    table["hemisphere"] = table["name"].str.split("_").str[1].str[0]  # 17Networks_LH_VisCent_ExStr_1
    table["network7"] = table["name_7networks"].str.split("_").str[2]
    table["network17"] = table["name_17networks"].str.split("_").str[2]
    return table[[*REGION_COLUMNS, "label_17networks", "label_7networks"]]


def _read(name: str) -> pd.DataFrame:
    with (files("bjepa.preproc") / "tables" / f"{name}.tsv").open() as stream:
        return pd.read_csv(stream, sep="\t")
