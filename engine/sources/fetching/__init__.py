"""Pictures from the web: fetched politely, within limits, from public addresses alone, and never against the will of a site."""
