"""Learning from rewards: rollouts, what is learnt from them, and what watches over it."""
