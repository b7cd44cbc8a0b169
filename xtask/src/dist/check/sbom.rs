//! Whether the list of crates has the form that it says it has, by the schema of `CycloneDX`'s own library.

use std::time::Duration;

use anyhow::Result;

use crate::{
    dist::{Packages, check::step},
    process::Cmd,
    report::{line, say},
    setup::python,
    test::libtest::Tally,
};

const LIMIT: Duration = Duration::from_mins(1);
const REQUIREMENTS: &str = "cyclonedx-python-lib[json-validation]==11.12.0\n";

/// Says what is wrong; a list in which a crate has no name is wrong too, or this proves nothing.
const CHECK: &str = r#"
import json, sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

with open(sys.argv[1]) as file:
    sbom = json.load(file)
validator = JsonStrictValidator(SchemaVersion[f"V{sbom['specVersion'].replace('.', '_')}"])
problem = validator.validate_str(json.dumps(sbom))
del sbom["components"][0]["name"]
if not validator.validate_str(json.dumps(sbom)):
    problem = problem or "a component without a name is taken"
sys.exit(problem and str(problem))
"#;

pub(super) fn check(packages: &Packages) -> Result<Tally> {
    say("dist", "the list of crates");
    let environment = python::ensure("cyclonedx", REQUIREMENTS, "CycloneDX's schemas")?;
    let status = Cmd::new(environment.join("bin/python"), LIMIT)
        .args(["-I", "-c", CHECK])
        .arg(&packages.sbom)
        .lines(|text| {
            line(format_args!("    {text}"));
            Ok(())
        })?;
    Ok(step(status.success()))
}
