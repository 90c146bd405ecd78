"""A trained agent as ONNX files, and a runtime that acts with them without torch.

``search`` and ``policy`` are the exported modules. ``onnx_graph`` writes one graph, ``folder`` all files of an agent,
and ``check`` compares it with torch. Only ``runtime`` is needed to act.
"""
