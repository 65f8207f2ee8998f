"""What `streambed bench` measures: this server alone, or in turns with others."""
