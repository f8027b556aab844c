"""The regions of the published atlases: names, networks and places, in the order of their labels.

Shipped as `tables/*.tsv`: label numbers in both network orders, names, and the centre of each label in
MNI152NLin6Asym (mm). Sources: Schaefer 2018 (names of release 0.14.3, and the older ones where they differ,
which TemplateFlow still has; MIT), Tian 2020 (Melbourne Subcortex Atlas). docs/atlases.md says how they were
made.
"""

import functools
from importlib.resources import files

import pandas as pd

REGION_COLUMNS = ("index", "name", "structure", "hemisphere", "network7", "network17", "x", "y", "z")
SCHAEFER_SIZES = tuple(range(100, 1001, 100))
TIAN_SCALES = (1, 2, 3, 4)
ORDERS = ("17networks", "7networks")


def tian_table(scale: int = 3) -> pd.DataFrame:
    """Tian scale 1 to 4: REGION_COLUMNS, 16, 32, 50 or 54 rows; their network is "Subcortex"."""
    table = _read(f"tian-s{scale}").sort_values("label", ignore_index=True)
    table["index"] = table["label"]
    table["structure"] = "subcortex"
    table["hemisphere"] = table["name"].str[-2].str.upper()  # HIP-head-m-rh
    table["network7"] = table["network17"] = "Subcortex"
    return table[list(REGION_COLUMNS)]


def schaefer_table(order: str = "17networks", n_parcels: int = 400) -> pd.DataFrame:
    """Schaefer in "17networks" or "7networks" order: REGION_COLUMNS and its label in either order."""
    table = _read(f"schaefer-{n_parcels}").sort_values(f"label_{order}", ignore_index=True)
    table["index"] = table[f"label_{order}"]
    table["name"] = table[f"name_{order}"]
    table["structure"] = "cortex"
    table["hemisphere"] = table["name"].str.split("_").str[1].str[0]  # 17Networks_LH_VisCent_ExStr_1
    table["network7"] = table["name_7networks"].str.split("_").str[2]
    table["network17"] = table["name_17networks"].str.split("_").str[2]
    return table[[*REGION_COLUMNS, "label_17networks", "label_7networks"]]


def schaefer_vertices(order: str, n_parcels: int) -> "pd.Series[int] | None":
    """Vertices of each parcel on the fsLR 32k surface without its medial wall, in `order`; None: not known.

    Known for 100, 200, 300, 400 and 1000 parcels; two of the 1000 have none.
    """
    table = _read(f"schaefer-{n_parcels}").sort_values(f"label_{order}", ignore_index=True)
    return table["n_vertices"] if "n_vertices" in table else None


def schaefer_names(order: str, n_parcels: int) -> dict[str, list[str]]:
    """Every known naming of the parcels, each a list in the given order: {"17networks": [...], ...}.

    The keys are the two networks' names and, where the older release is known (not for 700 and 900 parcels),
    those with " older than 0.14.3". An old name can be a new name of another parcel.
    """
    table = _read(f"schaefer-{n_parcels}").sort_values(f"label_{order}", ignore_index=True)
    namings = {}
    for networks in ORDERS:
        names = table[f"name_{networks}"]
        namings[networks] = names.tolist()
        if (older := f"older_name_{networks}") in table:  # empty where the name did not change
            namings[f"{networks} older than 0.14.3"] = table[older].where(table[older] != "", names).tolist()
    return namings


def downloads() -> pd.DataFrame:
    """Published files whose content is known: atlas, space, resolution, sha256, address (commit pinned)."""
    return _read("downloads")


def _read(name: str) -> pd.DataFrame:
    return _read_once(name).copy()


@functools.cache
def _read_once(name: str) -> pd.DataFrame:
    with (files("bjepa.preproc.atlas") / "tables" / f"{name}.tsv").open() as stream:
        return pd.read_csv(stream, sep="\t", keep_default_na=False)
