"""Many runs: comparisons, the engines that run them, their statistics, curves and reports."""
