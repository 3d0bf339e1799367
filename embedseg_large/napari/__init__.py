"""The napari plugin: segment, re-cluster, proofread, and train from painted labels in a window.

::

    napari.yaml     the plugin's manifest
    selection       which voxels of a layer to segment, and where results belong
    recording       keeps the predictions of a network, and clusters them again
    segmenting      a run of the engine on a selection
    painting        training data from painted labels, and training on them and on reviews
    proofreading    a review in a viewer: surroundings of instances, painted voxels
    telling         progress and cancelling
    wording         translates the engine's messages into the panel's terms
    sample          the sample embryo
    background      work outside the GUI's thread
    live, model_choice, segment_panel, review_panel, train_panel, widget     the widgets

Only the modules of the last two lines import napari and Qt; the others access layers by attribute.
"""
