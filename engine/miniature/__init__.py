"""The tiny models of the miniature world (CLIP, judge, generator, reference branch): training, saving, measuring."""
