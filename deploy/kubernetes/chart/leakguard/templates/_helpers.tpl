{{- define "leakguard.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "leakguard.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "leakguard.selectorLabels" -}}
app.kubernetes.io/name: {{ include "leakguard.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "leakguard.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name (.Chart.Version | replace "+" "_") }}
{{ include "leakguard.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "leakguard.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "leakguard.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "leakguard.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/* A list of strings as TOML has it. Strings of JSON are strings of TOML. */}}
{{- define "leakguard.tomlList" -}}
[{{ range $index, $item := . }}{{ if $index }}, {{ end }}{{ $item | toJson }}{{ end }}]
{{- end -}}

{{- define "leakguard.toml" -}}
{{- if regexMatch "(?m)^\\s*\\[\\s*(interfaces|metrics)\\s*\\]" .Values.config -}}
{{- fail "config: [interfaces] and [metrics] are made of the values tunnels, localInterfaces, uplinks and metrics" -}}
{{- end -}}
{{- if and (.Values.config | trim) (not (regexMatch "^(\\s*(#[^\n]*)?\n)*\\s*\\[" .Values.config)) -}}
{{- fail "config: it has to begin with a table, such as [dns]; mode and on_exit are the values mode and onExit" -}}
{{- end -}}
mode = {{ .Values.mode | toJson }}
on_exit = {{ .Values.onExit | toJson }}

[interfaces]
tunnel = {{ include "leakguard.tomlList" .Values.tunnels }}
local = {{ include "leakguard.tomlList" .Values.localInterfaces }}
uplink = {{ include "leakguard.tomlList" .Values.uplinks }}
{{- if .Values.metrics.enabled }}

# The address is on the command line.
[metrics]
public = true
labels = { {{- $first := true }}{{ range $key, $value := .Values.metrics.labels }}{{ if not $first }},{{ end }} {{ $key }} = {{ toString $value | toJson }}{{ $first = false }}{{ end }} }
{{- end }}
{{- with .Values.config | trim }}

{{ . }}
{{- end }}
{{- end -}}

{{/* In observe mode nothing is enforced: to be ready is to be at work. */}}
{{- define "leakguard.readyLevel" -}}
{{- if eq .Values.mode "observe" }}none{{ else }}{{ .Values.minLevel }}{{ end -}}
{{- end -}}
