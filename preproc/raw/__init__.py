"""Raw fMRI: from a BOLD run and a T1w image, as the scanner gave them, to regions on the BOLD's own grid.

    options.py        what the user may choose
    template.py       which template, and how far it lies from the atlas
    steady_state.py   volumes before the signal is steady
    slice_timing.py   each slice to the time of the middle one (an option)
    volumes.py        whole volumes, one at a time, and the cubic spline through one
    motion.py         rigid realignment: a matrix a volume; rigid.py its six parameters
    reference.py      mean image and brain mask of a run
    ants.py           the registration library: threads, seed, images in and out
    anatomy.py        T1w -> bias corrected, brain mask, warped to the template; once a participant
    coregister.py     BOLD -> T1w, rigid
    displacement.py   a transform as a field of displacements
    subject_atlas.py  the atlas on the BOLD's own grid, through the chain of transforms
    sample.py         every frame interpolated once
    tissue.py         white matter and ventricles of a run, from the template's maps
    confounds.py      what moves the signal but is not the brain, under fMRIPrep's names
    compcor.py        its principal components of white matter and fluid
    verdict.py        is the registration right: measures and thresholds
    figures.py        pictures to look at; mosaic.py slices side by side, motion_plot.py the head over time
    participant.py    the order for one participant, each stage kept under the hash of what it is made from
    run.py            the order for one run

Needs `bjepa[raw]` (antspyx) for anatomy and coregistration only. Design and evidence: docs/raw.md.
"""
