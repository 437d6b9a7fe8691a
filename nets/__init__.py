"""Network bricks: multilayer perceptrons, the Nature CNN, and the torso an observation asks for."""

from semigradient.nets.bricks import ACTIVATIONS, NatureCNN, mlp, orthogonal, torso

__all__ = ["ACTIVATIONS", "NatureCNN", "mlp", "orthogonal", "torso"]
