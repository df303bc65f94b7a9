"""What the recipes of distillation share: rollouts, teachers and twins, and the judge's curve."""
