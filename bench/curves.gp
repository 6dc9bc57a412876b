# curves.gp: draws what curves.awk has written, as SVG, both axes logarithmic. Variables: data, out,
# title, xlabel, ylabel.
set terminal svg size 640,420 font "sans-serif,13" background "white"
set output out
set datafile separator "\t"
set datafile missing "?"
set title title
set xlabel xlabel
set ylabel ylabel
set logscale xy
set format xy "%.0s%c"
set format y "%g"
set key top left
set autoscale xfix
set grid
stats data skip 1 nooutput
plot for [i=2:STATS_columns] data using 1:i with linespoints linewidth 2 pointtype 7 \
  pointsize 0.6 title columnheader(i)
