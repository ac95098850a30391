"""What a wire observer can tell: captures read into arrays, counted per tick, compared and drawn."""
