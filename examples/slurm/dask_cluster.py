"""Keep a Dask cluster on SLURM for bjepa-preprocess: it grows and shrinks with the scans that wait.

pip install 'bjepa[dask]'
python examples/slurm/dask_cluster.py --queue normal --maximum-jobs 50 &
bjepa-preprocess derivatives/fmriprep out --space MNI152NLin6Asym --dask tcp://$(hostname):8786
"""

import argparse
import signal

from dask_jobqueue import SLURMCluster


def main() -> None:
    """Start the scheduler here and jobs in the queue; stop with Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--queue", required=True)
    parser.add_argument("--maximum-jobs", type=int, default=50)
    parser.add_argument("--port", type=int, default=8786)
    args = parser.parse_args()
    cluster = SLURMCluster(
        queue=args.queue,
        cores=4,
        processes=4,  # one thread each: HDF5 and the readers gain nothing from threads
        memory="4GB",  # 1 GB a worker; a scan of any length needs about 0.25 GB
        walltime="04:00:00",
        scheduler_options={"port": args.port},
    )
    cluster.adapt(maximum_jobs=args.maximum_jobs)
    print(f"bjepa-preprocess ... --dask {cluster.scheduler_address}", flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
