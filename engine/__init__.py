"""imagefoundry's engine: recipes in, a priced and scored table of labelled images out."""

__version__ = "0.1.0"
