"""How a checkpoint's conversations become text: recipes, chat templates, and the token scored."""
