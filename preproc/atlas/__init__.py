"""The atlas: which labels, in which order, and how that is proven."""

from bjepa.preproc.atlas.atlas import DEFAULT_ATLAS, TABLE_COLUMNS, Atlas, load_atlas, save_atlas

__all__ = ["DEFAULT_ATLAS", "TABLE_COLUMNS", "Atlas", "load_atlas", "save_atlas"]
