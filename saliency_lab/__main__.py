"""`python -m saliency_lab TASK [overrides]`."""

from saliency_lab.cli import main

if __name__ == "__main__":
    main()
