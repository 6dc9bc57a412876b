# samples.awk: reads the contestants (name, head of column) and the samples (workload, contestant,
# metric, value, unit), both separated by tabs, for the program behind it.

BEGIN { FS = "\t" }

FNR == NR { # a contestant
  who[++columns] = $1
  head[columns] = $2
  next
}

{ # a sample
  row = $1 SUBSEP $3
  if (!(row in unit))
    rows[++nrows] = row
  unit[row] = $5
  key = row SUBSEP $2
  samples[key, ++count[key]] = $4 + 0
}

function sort(key, n,    i, j, x) { # by insertion
  for (i = 2; i <= n; i++) {
    x = samples[key, i]
    for (j = i - 1; j > 0 && samples[key, j] > x; j--)
      samples[key, j + 1] = samples[key, j]
    samples[key, j + 1] = x
  }
}

# -1 where there is none. What a peer does not have typed, it is not asked to do twice.
function median(row, name,    key, n, half) {
  key = row SUBSEP name
  if (!(key in count))
    sub(/-typed/, "", key)
  if (!(key in count))
    return -1
  n = count[key]
  half = int((n + 1) / 2)
  sort(key, n)
  return n % 2 ? samples[key, half] : (samples[key, half] + samples[key, half + 1]) / 2
}
