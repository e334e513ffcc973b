{{- define "embedd.fullname" -}}
{{- if contains "embedd" .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-embedd" .Release.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "embedd.selector" -}}
app.kubernetes.io/name: embedd
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "embedd.labels" -}}
{{ include "embedd.selector" . }}
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | quote }}
{{- end }}

{{- define "embedd.image" -}}
{{ printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) | quote }}
{{- end }}

{{- define "embedd.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}{{ .Values.serviceAccount.name | default (include "embedd.fullname" .) }}{{ else }}{{ .Values.serviceAccount.name | default "default" }}{{ end }}
{{- end }}

{{- define "embedd.claim" -}}
{{ .Values.models.pvc.existingClaim | default (printf "%s-models" (include "embedd.fullname" .)) }}
{{- end }}

{{- define "embedd.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "embedd.mounts" -}}
- {name: data, mountPath: /data}
- {name: tmp, mountPath: /tmp}
{{- if ne .Values.models.source "image" }}
- {name: models, mountPath: /models}
{{- end }}
{{- end }}

{{- define "embedd.env" -}}
- {name: EMBEDD_STATE, value: /data/state}
{{- if ne .Values.models.source "image" }}
- {name: EMBEDD_MODELS, value: /models}
{{- end }}
- name: EMBEDD_THREADS
  valueFrom:
    resourceFieldRef: {containerName: embedd, resource: requests.cpu}
{{- range $name, $value := .Values.settings }}
- {name: {{ $name }}, value: {{ $value | toString | quote }}}
{{- end }}
{{- end }}
