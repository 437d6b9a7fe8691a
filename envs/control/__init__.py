"""Control at any time step: classic control, closed forms, and Gymnasium's simulators."""
