# table.awk: with samples.awk, a table in Markdown with its columns aligned. The first contestant is
# compared with each of the others.

function number(x) { # three digits that count
  return sprintf(x >= 100 ? "%.0f" : x >= 10 ? "%.1f" : x >= 1 ? "%.2f" : "%.3f", x)
}

function cell_text(row, column,    x, own) {
  x = median(row, who[column])
  own = median(row, who[1])
  if (x < 0)
    return "-"
  return number(x) (column > 1 && own >= 0 && x > 0 ? sprintf(" (%.2f)", own / x) : "")
}

function put(line, column, text) {
  cell[line, column] = text
  if (length(text) > width[column])
    width[column] = length(text)
}

function fill(    i, c, part) {
  put(0, 0, "workload")
  put(0, -1, "metric")
  for (c = 1; c <= columns; c++)
    put(0, c, head[c])
  for (i = 1; i <= nrows; i++) {
    split(rows[i], part, SUBSEP)
    put(i, 0, part[1])
    put(i, -1, part[2] ", " unit[rows[i]])
    for (c = 1; c <= columns; c++)
      put(i, c, cell_text(rows[i], c))
  }
}

function dashes(n,    s) {
  while (n-- > 0)
    s = s "-"
  return s
}

function print_line(line,    c) {
  printf "| %-" width[0] "s | %-" width[-1] "s |", cell[line, 0], cell[line, -1]
  for (c = 1; c <= columns; c++)
    printf " %" width[c] "s |", cell[line, c]
  print ""
}

function print_rule(    c) {
  printf "| %s | %s |", dashes(width[0]), dashes(width[-1])
  for (c = 1; c <= columns; c++)
    printf " %s: |", dashes(width[c] - 1)
  print ""
}

END {
  fill()
  print_line(0)
  print_rule()
  for (i = 1; i <= nrows; i++)
    print_line(i)
}
