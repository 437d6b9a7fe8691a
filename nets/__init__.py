"""Network bricks: multilayer perceptrons, the Nature CNN, and the torso of an observation space."""

from semigradient.nets.bricks import ACTIVATIONS, NatureCNN, mlp, orthogonal, torso

__all__ = ["ACTIVATIONS", "NatureCNN", "mlp", "orthogonal", "torso"]
