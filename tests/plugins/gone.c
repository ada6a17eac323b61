/* A library that the plug-in next to it needs and that is not found when it is loaded. */
int gone(void);
int gone(void) { return 1; }
