"""A trained agent as graphs, and a runtime that acts with them; ONNX files need no torch.

``search`` and ``policy`` are the exported modules. ``graph`` writes one graph, ``folder`` all files of an agent,
and ``check`` compares it with torch. Only ``runtime`` is needed to act.
"""
