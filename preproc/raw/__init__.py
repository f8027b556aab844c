"""Raw fMRI: from a BOLD run and a T1w image, as the scanner gave them, to regions on the BOLD's own grid.

  the order
    run.py            for one run, from its volumes to regional means and confounds
    run_reference.py  its first stage: motion, mean image, brain mask
    participant.py    for one participant's T1w image, once whatever the runs
    stages.py         each stage is kept under the hash of what it is made from
    options.py        what the user may choose
  one run
    header.py         what its header forbids
    steady_state.py   volumes before the signal is steady
    slice_timing.py   each slice to the time of the middle one (an option)
    volumes.py        whole volumes, one at a time, and the cubic spline through one
    motion.py         rigid realignment: a matrix a volume; rigid.py its six parameters
    reference.py      mean image and brain mask
    sample.py         every frame interpolated once
  registration (antspyx, `bjepa[raw]`)
    template.py       which template, how far it lies from the atlas; templateflow.py where it comes from
    ants.py           the library: threads, seed, images in and out; work_grid.py the grids it works on
    t1w.py            reading a T1w image; brain_mask.py the brain in a whole head
    anatomy.py        T1w -> bias corrected, brain mask, warped to the template
    coregister.py     BOLD -> T1w, rigid
    displacement.py   a transform as a field of displacements
  what comes out
    subject_atlas.py  the atlas on the BOLD's own grid, through the chain of transforms
    tissue.py         white matter and ventricles of a run, from the template's maps
    confounds.py      what moves the signal but is not the brain, under fMRIPrep's names
    compcor.py        its principal components of white matter and fluid
  is it right
    verdict.py        measures and thresholds; agreement.py are BOLD and T1w of one person
    figures.py        pictures to look at; mosaic.py slices side by side, motion_plot.py the head over time

Design and evidence: docs/raw.md, docs/raw_quality.md, docs/decisions/0018.
"""
