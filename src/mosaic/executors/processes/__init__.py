"""Share clients out over processes of one machine or one launch."""
