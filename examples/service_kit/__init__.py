"""What the three example services share. To copy an example out of this project, copy this folder with it."""
