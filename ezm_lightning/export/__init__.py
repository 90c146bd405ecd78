"""A trained agent as files of graphs, and what acts with them; those of ONNX need no torch.

``search`` and ``policy`` say what is exported, ``graph`` writes one graph, ``folder`` all that makes an agent, and
``check`` compares it with torch. ``runtime`` alone is needed to act.
"""
