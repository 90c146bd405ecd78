"""A trained agent as ONNX files, and what acts with them where no torch is installed.

``search`` and ``policy`` say what is exported, ``onnx_graph`` writes one graph, ``folder`` all that makes an agent, and
``check`` compares it with torch. ``runtime`` alone is needed to act.
"""
