"""The models that LongLive is made of."""
