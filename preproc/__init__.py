"""From a scan to shards: regional series, cleaned, resampled, scaled, with their origin.

The way of a scan, and where to look for each step:

    inputs/     what was given, as a list of scans: fMRIPrep, XCP-D, folders, tables, UK Biobank, manifests
    atlas/      which labels, in which order, and how that is proven
    participant_stage.py, one scan:
        read_scan.py     volume: stream.py, operator.py, extract.py; surface: cifti.py;
                         table: series_tables.py, number_tables.py, text_tables.py
        repetition_time.py   given, of the sidecar, or of a header that can be believed
        clean.py         with strategies.py, confounds.py, censoring.py
        report/          qc.py (numbers) and scan_picture.py (the picture)
        scan_files.py    its two files, whole or absent
    group_stage.py, all scans, one in memory at a time:
        scan_records.py, group_plan.py   which scans, resampled how (resample.py)
        scaling.py, quantiles.py         fitted on the participants that are named
        shard_writer.py, shards.py       written, read
        report/          cohort.py (statistics over scans) and page.py (report.html)
    exports/, check/     afterwards: other programs' layouts; is the output what it promises?
    engines.py           processes or a Dask cluster
    demo/                a simulated cohort and its atlas
    files.py, errors.py, participants.py, software.py, html.py, brainspace_files.py   what several share
"""

from bjepa.preproc.atlas import Atlas, load_atlas
from bjepa.preproc.errors import InputError
from bjepa.preproc.extract import RegionalScan, extract_timeseries
from bjepa.preproc.shards import ShardReader

__all__ = ["Atlas", "InputError", "RegionalScan", "ShardReader", "extract_timeseries", "load_atlas"]
