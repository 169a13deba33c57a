// The custom resources of cert-manager, against which tests check manifests/secure/cert-manager.
module pilothouse/tools/cert-manager

go 1.26.0

require github.com/cert-manager/cert-manager v1.21.2
