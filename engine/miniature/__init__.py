"""The three tiny models of the miniature world (CLIP, judge, generator): how they are trained, saved and measured."""
