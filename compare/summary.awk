# Medians and ranges of column VALUE by column NAME of a CSV: awk -F, -v NAME=2 -v VALUE=5 -f summary.awk run.csv
NR > 1 { values[$NAME] = values[$NAME] " " $VALUE }
END {
    for (name in values) {
        count = split(substr(values[name], 2), sorted, " ")
        for (i = 2; i <= count; i++) { value = sorted[i] + 0; for (j = i - 1; j > 0 && sorted[j] + 0 > value; j--) sorted[j + 1] = sorted[j]; sorted[j + 1] = value }
        middle = count % 2 ? sorted[(count + 1) / 2] : (sorted[count / 2] + sorted[count / 2 + 1]) / 2
        printf "%-10s median %.2f (%.2f to %.2f, n=%d)\n", name, middle, sorted[1], sorted[count], count
    }
}
