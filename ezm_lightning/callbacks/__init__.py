"""What flows backward or sideways on the river: priorities, weights, collection, evaluation, checkpoints."""
