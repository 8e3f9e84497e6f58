"""LightningModules: what is trained. They wire nets to losses, weigh and record; they hold no formula."""
