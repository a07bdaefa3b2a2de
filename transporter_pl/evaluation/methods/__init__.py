"""The rows of a table: everything that draws a video of ε+, or stands for one."""
