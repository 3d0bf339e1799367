"""The napari plugin: segment, re-cluster, proofread, and train from painted labels in a window.

::

    napari.yaml     what napari is told of it
    selection       which voxels of a layer are meant, and where results belong
    recording       a network whose predictions stay, and clustering them again
    segmenting      a run of the engine on a selection
    painting        training data from painted labels, and training on them and on reviews
    proofreading    a review in a viewer: what is around an instance, what was painted there
    telling         progress and cancelling
    wording         what the engine says, in the words of the panel
    sample          the embryo of the package
    background      work off the GUI's thread
    live, model_choice, segment_panel, review_panel, train_panel, widget     what there is to click

Only the last two lines know napari and Qt; the others take layers by their attributes.
"""
