"""A coefficient for every loss of EZM."""

COEFS = {
    "reward": 1.0,
    "value": 0.25,
    "policy": 1.0,
    "consistency": 5.0,
    "path_consistency": 0.25,
    "value_gradient": 0.5,
    "entropy": 0.1,
    "temperature": 1.0,
    "bc": 0.1,
}
