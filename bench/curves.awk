# curves.awk: with samples.awk, what a plot is drawn from: a line for each size of one workload, its
# size and the medians of one metric. `workload`, `metric` and `scale`, by which sizes are multiplied,
# are given as variables. A contestant has a column if it has any value.

function has_any(name,    i) {
  for (i = 1; i <= n; i++)
    if (median(chosen[i], name) >= 0)
      return 1
  return 0
}

END {
  for (i = 1; i <= nrows; i++) {
    split(rows[i], part, SUBSEP)
    split(part[1], word, " ")
    if (word[1] == workload && part[2] == metric)
      chosen[++n] = rows[i]
  }
  line = "size"
  for (c = 1; c <= columns; c++)
    if (shown[c] = has_any(who[c]))
      line = line "\t" head[c]
  print line
  for (i = 1; i <= n; i++) {
    split(chosen[i], word, /[ \034]/)
    line = word[2] * scale
    for (c = 1; c <= columns; c++)
      if (shown[c])
        line = line "\t" ((x = median(chosen[i], who[c])) >= 0 ? x : "?")
    print line
  }
}
