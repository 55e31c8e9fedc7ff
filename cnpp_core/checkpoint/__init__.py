"""Reading, converting and reporting ControlNet files."""
