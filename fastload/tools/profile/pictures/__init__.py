"""The four pictures of a profile, as rectangles, lines and words at given places.

Each file draws one, for a given width, so that words stay readable in a narrow window: a picture
that is merely scaled down shows nothing. `templates/figure.svg.j2` turns any of them into SVG.
"""

from fastload.tools.profile.pictures.batch import draw_batch
from fastload.tools.profile.pictures.heat import draw_heat
from fastload.tools.profile.pictures.shapes import Picture
from fastload.tools.profile.pictures.timeline import draw_timeline
from fastload.tools.profile.pictures.trust import draw_trust

__all__ = ["Picture", "draw_batch", "draw_heat", "draw_timeline", "draw_trust"]
