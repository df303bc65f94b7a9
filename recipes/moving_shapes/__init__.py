"""The moving-shapes world: clips and captions, and a judge that reads them from pixels."""
