//! The tables of packets sent and seen, whose rows the tests write as they assert them.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};

/// The variable that tells the tests where rows go.
pub(super) const VARIABLE: &str = "LEAKGUARD_REPORT";

/// Where they go, below the logs.
pub(super) const DIRECTORY: &str = "report";

/// How many columns are labels; what follows are counts.
const LABELS: usize = 4;

/// One table: its columns' names and its rows.
#[derive(Debug, Default, Eq, PartialEq)]
struct Table {
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
}

/// Empties the directory for the rows and gives its path.
pub(super) fn prepare(log_dir: &Path) -> Result<PathBuf> {
    let dir = log_dir.join(DIRECTORY);
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    for file in files(&dir)? {
        fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))?;
    }
    Ok(dir)
}

/// The lines of all tables in a directory, each table with a count at its end.
pub(super) fn lines(dir: &Path) -> Result<Vec<String>> {
    let mut tables: BTreeMap<String, Table> = BTreeMap::new();
    for file in files(dir)? {
        let text =
            fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        // TABLE.PART.tsv
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let name = name.split('.').next().unwrap_or_default();
        tables
            .entry(name.to_owned())
            .or_default()
            .add(&text)
            .with_context(|| format!("{} is no table", file.display()))?;
    }
    ensure!(
        !tables.is_empty(),
        "no test has written a table into {}",
        dir.display()
    );
    let mut lines = Vec::new();
    for (name, table) in tables {
        lines.extend(table.lines());
        lines.push(table.summary(&name)?);
        lines.push(String::new());
    }
    Ok(lines)
}

fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let cannot_read = || format!("cannot read {}", dir.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).with_context(cannot_read)? {
        files.push(entry.with_context(cannot_read)?.path());
    }
    files.sort();
    Ok(files)
}

impl Table {
    /// Adds a file: tab-separated values below a line of column names.
    fn add(&mut self, text: &str) -> Result<()> {
        let mut lines = text.lines().map(|line| {
            let values = line.split('\t');
            values.map(str::to_owned).collect::<Vec<_>>()
        });
        let columns = lines.next().context("there is no first line")?;
        ensure!(
            self.columns.is_empty() || self.columns == columns,
            "its columns are not those of the other parts"
        );
        self.columns = columns;
        for row in lines {
            ensure!(row.len() == self.columns.len(), "a row has other columns");
            self.rows.push(row);
        }
        Ok(())
    }

    /// Labels to the left, counts to the right.
    fn lines(&self) -> Vec<String> {
        let all = || std::iter::once(&self.columns).chain(&self.rows);
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|column| {
                let widths = all().map(|row| row[column].chars().count());
                widths.max().unwrap_or_default()
            })
            .collect();
        all()
            .map(|row| {
                let cells = row.iter().zip(&widths).enumerate();
                let cells = cells.map(|(column, (cell, &width))| {
                    if column < LABELS {
                        format!("{cell:<width$}")
                    } else {
                        format!("{cell:>width$}")
                    }
                });
                cells.collect::<Vec<_>>().join("  ")
            })
            .collect()
    }

    /// `blocked: 812 rows; sent 4060, without 4060, with 0`.
    fn summary(&self, name: &str) -> Result<String> {
        let mut sums = Vec::new();
        for (column, title) in self.columns.iter().enumerate().skip(LABELS) {
            let mut sum = 0;
            for row in &self.rows {
                sum += row[column]
                    .parse::<u64>()
                    .with_context(|| format!("{} is no count", row[column]))?;
            }
            sums.push(format!("{title} {sum}"));
        }
        Ok(format!(
            "{name}: {} rows; {}",
            self.rows.len(),
            sums.join(", ")
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "form\tpath\tfamily\tclass\tsent\twithout\twith\n";

    fn table(parts: &[&str]) -> Table {
        let mut table = Table::default();
        for part in parts {
            table.add(&format!("{HEAD}{part}")).unwrap();
        }
        table
    }

    #[test]
    fn parts_are_one_table_with_a_count() {
        let table = table(&[
            "plain\traw\tipv4\tdns/udp\t5\t5\t0\n",
            "17 headers\tforwarded\tipv6\tdot/tcp\t5\t5\t0\n",
        ]);
        assert_eq!(
            table.lines(),
            [
                "form        path       family  class    sent  without  with",
                "plain       raw        ipv4    dns/udp     5        5     0",
                "17 headers  forwarded  ipv6    dot/tcp     5        5     0",
            ]
        );
        assert_eq!(
            table.summary("blocked").unwrap(),
            "blocked: 2 rows; sent 10, without 10, with 0"
        );
    }

    #[test]
    fn what_is_no_table_is_an_error() {
        let mut empty = Table::default();
        assert!(empty.add("").is_err());
        assert!(empty.add(&format!("{HEAD}too\tfew\n")).is_err());
        assert!(table(&[]).add("other\tcolumns\n").is_ok());
        assert!(table(&[""]).add("other\tcolumns\n").is_err());
        let table = table(&["a\tb\tc\td\tmany\t0\t0\n"]);
        assert!(table.summary("blocked").is_err());
    }
}
