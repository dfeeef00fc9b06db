"""What the commands that train a small model on real data share: digits, environments, training that resumes, pictures.

    python -m impl.models.NAME --out FOLDER

trains, says how far it is, and writes pictures to FOLDER. It is seeded; interrupted and called again with the same
folder it goes on where it stopped, with the numbers of an uninterrupted run. Needs `pip install '.[demos]'`.
"""

from .environments import Environments, Memory
from .pictures import save_boxes, save_curves, save_grid, save_points
from .probing import Encoder, accuracy_of_a_probe, name_digits_along_a_graph, nearest_neighbors
from .training import arguments, digits, train

__all__ = [
    "Encoder",
    "Environments",
    "Memory",
    "accuracy_of_a_probe",
    "arguments",
    "digits",
    "name_digits_along_a_graph",
    "nearest_neighbors",
    "save_boxes",
    "save_curves",
    "save_grid",
    "save_points",
    "train",
]
