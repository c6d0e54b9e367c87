#!/usr/bin/env -S Rscript --vanilla
# A scoring program in R, with no package: logistic regression, by Penstock's line protocol
# (docs/line-protocol.md). Its model file holds numbers: the bias, then one weight a column.
# With texts among the columns, read lines with jsonlite::fromJSON instead.

input <- file("stdin", "r")
say <- function(...) {
  cat(..., "\n", sep = "")
  flush(stdout())
}

hello <- readLines(input, 1)
learned <- scan(commandArgs(TRUE)[1], quiet = TRUE)
if (!grepl('"penstock":1,', hello, fixed = TRUE)) {
  say('{"penstock":1,"error":"another protocol"}')
  quit(status = 1)
}
say('{"penstock":1,"returns":"probability"}')

while (length(line <- readLines(input, 1)) == 1) {
  numbers <- scan(text = gsub("[][]", "", gsub("null", "NA", line)), sep = ",", quiet = TRUE)
  rows <- matrix(numbers, ncol = length(learned) - 1, byrow = TRUE)
  rows[is.na(rows)] <- 0
  scores <- plogis(learned[1] + rowSums(sweep(rows, 2, learned[-1], "*")))
  say("[", paste(format(scores, digits = 17, trim = TRUE), collapse = ","), "]")
}
