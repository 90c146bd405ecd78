"""From run folders to what a paper shows.

``runs`` reads learning curves, ``records`` what a folder says of its run, ``similarity`` cosines of gradients.
``groups`` puts runs together that differ in nothing but seed and tasks. ``statistics`` aggregates them. ``floors`` and
``published`` have the numbers to compare with. ``contents`` makes the tables, ``figures`` the pictures, ``page`` the
HTML, ``markdown`` a page of a repository, and ``folder`` writes it all, whole or not at all. A reported number is the
last evaluation, never the best.
"""
