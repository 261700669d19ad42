"""What fills are called and how wide the blur is, for those who draw them without torch."""

FILLS = ("black", "white", "mean", "blur", "noise", "shift+0.1", "shift-0.1", "road")

# The blur's standard deviation as a share of the image's shorter side: 10 pixels of 224, as in
# Fong and Vedaldi, "Interpretable explanations of black boxes by meaningful perturbation", 2017.
BLUR_SHARE = 10 / 224
