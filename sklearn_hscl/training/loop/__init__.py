"""Internal. The training loop: step, epoch, net."""
