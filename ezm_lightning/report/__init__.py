"""From run folders to the tables and pictures of a paper.

``runs`` reads learning curves, ``records`` the records of runs, ``similarity`` cosines of gradients. ``groups`` joins
runs that differ only in seed and tasks. ``statistics`` aggregates them. ``floors`` and ``published`` have numbers to
compare with. ``contents`` makes the tables, ``figures`` the pictures, ``page`` the HTML, ``markdown`` a page of a
repository. ``folder`` writes all files or none. A reported number is the last evaluation, never the best.
"""
