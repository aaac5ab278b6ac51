"""Pictures: drawing them, their recipes, overlays and grids, and files that are never half there."""
