"""bjepa: from brain scans to a trained brain foundation model, and an honest account of how good it is.

The stages are sub-packages, each importing only from those before it:
`bjepa.preproc`, `bjepa.gradients`, `bjepa.model`, `bjepa.cli`. Importing this package loads none of them.
"""

__version__ = "0.1.0"
