"""Where rows live: placement over processes and devices, layout, start values, the arrays."""
